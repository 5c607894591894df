#!/bin/sh
# python3 of the image: the environment that holds the project's packages.
exec /opt/trimode/bin/python3 "$@"
