"""C kernels, compiled for this machine at first use."""
