"""What every Triton kernel needs of a chip, in each configuration that the product can choose. No GPU is needed."""
