"""The method: confident learning on NumPy arrays. Nothing here knows Dask or reads files."""
