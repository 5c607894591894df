"""The login node and the job node: config, plan, job, client, scoring, report. Needs no torch and no Ray."""
