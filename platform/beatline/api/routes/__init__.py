"""The routes, thin over the functions that the command line calls too."""
