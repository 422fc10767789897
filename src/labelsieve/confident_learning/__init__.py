"""The method: confident learning on NumPy arrays. No Dask and no files."""
