"""How fast the platform is, each bench beside a bare floor in one run: `make bench T=<name>`."""
