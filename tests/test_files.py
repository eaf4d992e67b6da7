"""Folders that one process writes."""

import fcntl
import json
import os
import threading

from jaxgen.files import Lock


def test_who_took_a_folder_a_moment_ago_is_named_once_its_name_is_written(tmp_path):
    path = tmp_path / "lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    name = json.dumps({"process": 17, "host": "elsewhere"}).encode()
    later = threading.Timer(0.2, os.write, (file, name))
    later.start()
    assert Lock(tmp_path, "lock").take() == "process 17 on elsewhere"
    later.join()
    os.ftruncate(file, 0)
    assert Lock(tmp_path, "lock").take() == "another process"
    os.close(file)
    assert Lock(tmp_path, "lock").take() == ""
