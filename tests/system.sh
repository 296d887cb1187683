#!/bin/sh
# Installs with apt what some tests need of the system (`make system`, which `make test` calls).
# It needs Debian or Ubuntu, and root or a sudo that asks for no password. Where all is there it calls no apt. What can't
# be had is named in one line and is no error: its tests are skipped, or fail where EDGE_AD_REQUIRE=system is set.
set -u
PYTHON=${PYTHON:-python3}
PATH=$PATH:/usr/sbin:/usr/local/sbin

have() { command -v "$1" >/dev/null 2>&1; }

python_package() { # Debian splits its own Pythons into packages; others come whole
    "$PYTHON" -c 'import sys; v = "python%d.%d-" % sys.version_info[:2]; print(v + sys.argv[1] if sys.base_prefix == "/usr" else "")' "$1"
}

missing() { # the packages to install, one a line
    have g++ || echo g++
    have mosquitto || echo mosquitto
    { have chromium || have chromium-browser || have google-chrome; } || echo chromium
    have chromedriver || echo chromium-driver
    have aarch64-linux-gnu-g++ || echo g++-aarch64-linux-gnu
    { have qemu-x86_64 && { have qemu-aarch64 || have qemu-aarch64-static; }; } || echo qemu-user
    /usr/bin/python3 "$(dirname "$0")/edge_ad/runtime/sources/rtsp_server.py" --probe >/dev/null 2>&1 \
        || printf '%s\n' python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
            gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
    [ -e /usr/share/i18n/locales/de_DE ] || echo locales
    "$PYTHON" -c 'import ensurepip' 2>/dev/null || python_package venv
    "$PYTHON" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || python_package dev
}

# shellcheck disable=SC2046,SC2116  # words, whatever lies between them
wanted=$(echo $(missing))
[ -n "$wanted" ] || exit 0
give_up() {
    echo "not installed: $wanted: $1; tests that need them are skipped"
    exit 0
}

have apt-get || give_up "this system has no apt"
if [ "$(id -u)" = 0 ]; then
    root=
elif have sudo && sudo -n true 2>/dev/null; then
    root="sudo -n"
else
    give_up "that takes root, or sudo without a password (sudo make system)"
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    # shellcheck disable=SC2086  # $root is two words or none
    $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1 </dev/null
}
echo "installing with apt: $wanted"
apt update
# shellcheck disable=SC2086  # a list of words
apt install --no-install-recommends $wanted || for package in $wanted; do apt install --no-install-recommends "$package"; done
case $wanted in
*mosquitto*) # the tests start brokers of their own: no service on this machine
    # shellcheck disable=SC2086
    [ ! -d /run/systemd/system ] || $root systemctl -q disable --now mosquitto >/dev/null 2>&1 ;;
esac
# shellcheck disable=SC2046,SC2116
wanted=$(echo $(missing))
[ -z "$wanted" ] || give_up "$(grep '^E: ' "$log" | tail -1 | cut -c4- | grep . || echo 'apt did not say why')"
