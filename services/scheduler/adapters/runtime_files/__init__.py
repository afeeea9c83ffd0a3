"""The files of a container on its node, the same for every runtime that runs beside them."""
