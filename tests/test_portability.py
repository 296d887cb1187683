"""The same verdicts on another machine: what docs/portability.md lists, played by environments, locales and QEMU."""

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.artifact import Artifact
from edge_ad.data.images import images_below

NUMPY = (getattr(np, "_core", None) or np.core)._multiarray_umath  # before NumPy 2 it was np.core
ROOT = Path(__file__).parents[1]
PREDICT = """
import json, locale, sys
locale.setlocale(locale.LC_ALL, "")
import numpy as np
import edge_ad
with edge_ad.load(sys.argv[1], threads=int(sys.argv[2])) as detector:
    found = [detector.predict(path) for path in sys.argv[3:]]
tiny = np.full(4, 1e-40, np.float32) * np.float32(0.5)
print(json.dumps({
    "scores": [one.image_score for one in found],
    "pixels": [float(one.pixel_scores.max()) for one in found],
    "bad": [one.is_anomalous for one in found],
    "denormal": bool((tiny != 0).all()),
    "comma": locale.localeconv()["decimal_point"],
}))
"""
KERNELS = """
import numpy as np
from edge_ad import kernels
from edge_ad.kernels import reference
rng = np.random.default_rng(0)
teacher, student = (rng.standard_normal((1, 33, 9, 7)).astype(np.float32) for _ in range(2))
ours = kernels.cosine_map(teacher, student)
exact = reference.cosine_map(teacher.astype(float), student.astype(float), channels_last=False, eps=1e-6)
print(float(np.abs(ours - exact).max()))
frame = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
own = kernels.preprocess(frame, (20, 24), mean, std)
print(float(np.abs(own - reference.preprocess(frame, (20, 24), mean, std, channels="rgb")).max()))
"""


@pytest.fixture
def judged(small_artifact, parts, tmp_path):
    """judged(threads=1, **environment): what a process of its own finds in one good and one bad part."""
    small_artifact.update(calibration={"image_threshold": 0.1, "pixel_threshold": 0.1, "precision": "fp32"})
    paths = [tmp_path / "gut_ü.png", tmp_path / "schlecht.png"]
    for path, frame in zip(paths, (parts[0][0], parts[1][0]), strict=True):
        path.write_bytes(cv2.imencode(".png", frame[..., ::-1])[1].tobytes())

    def run(threads=1, **environment):
        done = subprocess.run(
            [sys.executable, "-c", PREDICT, str(small_artifact.path), str(threads), *map(str, paths)],
            env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_locale_time_zone_and_temporary_folder_change_no_bit(judged, tmp_path):
    here = judged()
    assert here["denormal"], "a library has switched denormal numbers off for the whole program"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert judged(**ascii_only) == here
    assert judged(TZ="Asia/Kathmandu", TMPDIR=str(tmp_path / "nowhere"), HOME=str(tmp_path / "no home")) == here


def test_a_decimal_comma_changes_no_bit(judged, tmp_path):
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/de_DE").exists():
        pytest.skip("localedef or the source of de_DE (Debian's locales) is not installed")
    made = tmp_path / "locales" / "de_DE.UTF-8"
    made.parent.mkdir()
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", str(made)], check=True, capture_output=True)
    german = judged(LC_ALL="de_DE.UTF-8", LOCPATH=str(made.parent))
    assert german.pop("comma") == ","
    here = judged()
    assert here.pop("comma") == "."
    assert german == here


def test_threads_and_older_instructions_of_numpy_and_its_blas_change_the_last_digits_only(judged):
    here = judged()
    usable = [name for name in NUMPY.__cpu_dispatch__ if NUMPY.__cpu_features__.get(name)]
    old = {"NPY_DISABLE_CPU_FEATURES": " ".join(usable), "OPENBLAS_CORETYPE": "Nehalem"}
    for other in (judged(threads=2), judged(**old)):
        assert other["scores"] == pytest.approx(here["scores"], rel=1e-4)
        assert other["pixels"] == pytest.approx(here["pixels"], rel=1e-4)
        assert other["bad"] == here["bad"]


def test_cpp_kernels_hold_without_avx_and_fused_multiply_add():
    """Their fast versions are chosen by the processor, and this one (SSE4.2 only) takes the plain one."""
    qemu = shutil.which("qemu-x86_64")
    if qemu is None or platform.machine() != "x86_64":
        pytest.skip("qemu-x86_64 (Debian's qemu-user) is not installed")
    pytest.importorskip("edge_ad.kernels._cpp", reason="the C++ module was not built")
    done = subprocess.run(
        [qemu, "-cpu", "Nehalem", sys.executable, "-c", KERNELS], capture_output=True, text=True, check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Nehalem", "EDGE_AD_BACKEND": "cpp"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    cosine, pixels = map(float, done.stdout.split())
    assert cosine < 1e-6
    assert pixels < 1e-6


def test_an_artifact_is_readable_by_the_lines_user_whatever_the_umask(small_artifact, tmp_path):
    before = os.umask(0o077)
    try:
        made = Artifact.create(tmp_path / "made", small_artifact.manifest, {"model.onnx": b"graph"})
        made.add("note.txt", b"more")
    finally:
        os.umask(before)
    assert made.path.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in made.path.iterdir()} == {0o644}


def test_names_that_differ_in_case_and_capital_suffixes_are_photos_of_their_own(tmp_path, write_photos):
    (photo,) = write_photos(tmp_path, 1)
    names = {"A.PNG", "b.png", "C.Png"}
    for name in names:
        shutil.copy(photo, tmp_path / name)
    photo.unlink()
    shutil.copy(tmp_path / "A.PNG", tmp_path / "a.png")
    found = {path.name for path in images_below(tmp_path)}
    if (tmp_path / "A.PNG").samefile(tmp_path / "a.png"):  # this file system does not tell them apart
        assert found == names
    else:
        assert found == names | {"a.png"}


def texts_without_encoding(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        modes = [
            word.value for word in (*node.args, *(k.value for k in node.keywords)) if isinstance(word, ast.Constant)
        ]
        if name in ("read_text", "write_text") or (
            name == "open" and isinstance(node.func, ast.Name) and not any("b" in str(mode) for mode in modes)
        ):
            yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_text_file_is_read_and_written_as_utf_8():
    """Without `encoding`, Python takes the locale's: Latin-1 on one machine, UTF-8 on the next."""
    files = [path for room in ("edge_ad", "kernels", "export", "calibrate") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    assert [found for path in files for found in texts_without_encoding(path)] == []


def test_no_text_depends_on_where_the_day_begins():
    """Times are stored with their zone: a naive `now` would be another moment on a machine in another one."""
    naive = ("datetime.now()", "datetime.utcnow()", "time.localtime(")
    files = [path for room in ("edge_ad", "export", "calibrate") for path in (ROOT / room).rglob("*.py")]
    assert [(path.name, word) for path in files for word in naive if word in path.read_text(encoding="utf-8")] == []
