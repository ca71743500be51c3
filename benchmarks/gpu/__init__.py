"""Everything that is to be known of a GPU, by one command: `python -m benchmarks.gpu --output DIR --minutes 8`.

It needs torch and Triton, and uses timm or torchvision where one is installed; neither a network connection nor what
the command line of percep needs. Without a GPU the same parts run on a CPU with tiny sizes, the kernels in Triton's
interpreter: a rehearsal, whose times mean nothing.
"""
