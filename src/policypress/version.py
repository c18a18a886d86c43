"""The version, for what writes it into files: no module of the package need import the package itself."""

__version__ = "0.1.0"
