"""The page on which labels are reviewed: which rows it shows, how it is written, and how it is served."""
