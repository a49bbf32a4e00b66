"""The judge: what a debugger says about a dump is compared with what the kernel itself printed before it died."""
