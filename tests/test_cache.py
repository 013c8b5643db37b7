import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxreg import cache, use_cache


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """What is set of JAX's configuration, with a cache folder of the test's own."""
    settings = {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cache.jax.config, "update", settings.__setitem__)
    return settings


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "jaxreg" / "programs"


def test_programs_are_kept_in_the_users_cache(settings, folder):
    assert use_cache() == folder and folder.stat().st_mode & 0o777 == 0o700
    assert settings["jax_compilation_cache_dir"] == str(folder)
    assert settings["jax_compilation_cache_max_size"] == cache.MOST_BYTES


@pytest.mark.parametrize(
    "platform, variables, expected",
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x"),
        ("linux", {"XDG_CACHE_HOME": "not/absolute"}, "/home/me/.cache"),
        ("linux", {}, "/home/me/.cache"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "/home/me/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
        ("win32", {}, "/home/me/AppData/Local"),
    ],
)
def test_the_users_cache(monkeypatch, platform, variables, expected):
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/me"} | variables).items():
        monkeypatch.setenv(name, value)
    assert cache._user_folder() == Path(expected)


def test_a_cache_that_cannot_be_made_is_done_without(settings, tmp_path):
    (tmp_path / "jaxreg").touch()
    assert use_cache() is None and not settings


def test_a_folder_that_is_set_is_left(monkeypatch):
    settings = {}
    config = SimpleNamespace(jax_compilation_cache_dir="/elsewhere", update=settings.__setitem__)
    monkeypatch.setattr(cache, "jax", SimpleNamespace(config=config))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "7")
    assert use_cache() == Path("/elsewhere") and not Path("/elsewhere").exists()
    assert settings == {"jax_persistent_cache_min_compile_time_secs": 0}


def test_a_cache_needs_what_bounds_it(settings, monkeypatch):
    monkeypatch.setattr(cache, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="needs filelock: pip install filelock"):
        use_cache()


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(settings, folder, mode):
    use_cache()
    settings.clear()
    folder.chmod(mode)
    with pytest.warns(UserWarning, match=f"aren't kept, because others may write to {folder}"):
        assert use_cache() is None
    assert not settings


def test_a_folder_of_somebody_else_is_refused(settings, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.warns(UserWarning, match="or own it: delete it"):
        assert use_cache() is None
    assert not settings


def test_programs_that_were_changed_or_cut_off_are_removed(settings, folder):
    use_cache()
    for name, used, written in (("good", 2, 1), ("changed", 1, 2), ("cut", None, 1)):
        (folder / f"{name}-cache").touch()
        os.utime(folder / f"{name}-cache", (written, written))
        if used is not None:
            (folder / f"{name}-atime").touch()
            os.utime(folder / f"{name}-atime", (used, used))
    use_cache()
    assert [path.name for path in folder.glob("*-cache")] == ["good-cache"]


CODE = """
import jax, jaxreg
jaxreg.use_cache()
print(jax.jit(lambda x: 2 * x)(3.0))
"""


@pytest.mark.slow
def test_the_next_process_need_not_compile(tmp_path, folder):
    def run():
        environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_LOG_COMPILES": "1"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", CODE], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout == "6.0\n", done.stderr
        return {path: path.stat().st_mtime_ns for path in folder.glob("*-cache")}

    first = run()
    assert first and run() == first
    for path in first:
        path.write_bytes(b"garbage")
    again = run()
    assert again.keys() == first.keys()
    assert all(path.read_bytes() != b"garbage" for path in again)
    assert run() == again
