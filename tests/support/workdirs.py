"""What tests know about the files in a workdir, and about those of inputs."""

import json
import os

from labelsieve.storage.folder import open_folder


def record_files(place, kind="summaries"):
    """Return the names of the records' files, in the order of the partitions; of summaries also those that are gone."""
    files: list[str] = json.loads(open_folder(place).read("labelsieve.json"))["records"]
    if kind == "summaries":
        return files
    by_name = {file.partition("-")[0]: file for file in open_folder(place).folder(kind).names()}
    return [by_name[name] for name in (file.partition("-")[0] for file in files) if name in by_name]


def shift_time(path, seconds=1):
    """Move the time of a file, so that it differs from another version of it, which was written in the same moment."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))
