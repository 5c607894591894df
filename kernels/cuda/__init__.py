"""What all Triton kernels share: how they are declared, launched on a GPU, interpreted on a CPU, or only compiled."""
