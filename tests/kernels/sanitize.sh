#!/bin/sh
# Build the C++ module with the address and undefined-behaviour sanitizers and run its tests against it.
# Usage: tests/kernels/sanitize.sh PYTHON BUILD_DIR. Exits with 77 where the compiler has no sanitizers.
set -eu
python=$1 build=$2 here=$(cd "$(dirname "$0")" && pwd)
source=$here/../../kernels
compiler=${CXX:-g++}
flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
mkdir -p "$build"
printf 'int main() { return 0; }\n' >"$build/probe.cpp"
$compiler $flags "$build/probe.cpp" -o "$build/probe" 2>/dev/null || exit 77
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
includes=$("$python" -m pybind11 --includes)
# Function clones are resolved before the sanitizers have started, so the plain copies are tested.
$compiler -std=c++17 -O1 -g1 $flags -DEDGE_AD_NO_CLONES -fPIC -shared -fvisibility=hidden -pthread $includes \
    "$source"/csrc/*.cpp -o "$build/_cpp$suffix"
libraries="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libubsan.so) $($compiler -print-file-name=libstdc++.so)"
# Python itself leaks at exit, so leaks are not looked for.
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 LD_PRELOAD=$libraries "$python" - "$build/_cpp$suffix" \
    -q -p no:cacheprovider -p no:faulthandler -k "not torch and not gradients" "$here/test_backends.py" \
    "$here/test_extremes.py" "$here/test_fused_score.py" <<'PYTHON'
import importlib.util
import sys

import pytest

spec = importlib.util.spec_from_file_location("edge_ad.kernels._cpp", sys.argv[1])
sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # in place of the installed one
spec.loader.exec_module(sys.modules[spec.name])
raise SystemExit(pytest.main(sys.argv[2:]))
PYTHON
