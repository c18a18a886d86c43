#!/usr/bin/env bash
# Installs the Debian packages that the set-up and the tests need, where apt-get and root (or sudo without a
# password) are at hand. What is there already is left alone; what cannot be installed is named in plain words.
# Exit code 1 only when something required is missing.
# PYTHON: the interpreter to check (python3). POLICYPRESS_NO_APT=1: check only, install nothing.
set -euo pipefail

PYTHON="${PYTHON:-python3}"

# One package a line: Debian package | required or optional | what needs it | command that succeeds if it is there
PACKAGES=(
    "python3-venv | required | the virtual environment | '$PYTHON' -c 'import ensurepip, venv'"
    "python3-dev | required | building the C extensions | '$PYTHON' -c 'import os, sysconfig; os.stat(sysconfig.get_path(\"include\") + \"/Python.h\")'"
    "gcc | required | building the C extensions | command -v gcc || command -v cc"
    "clang | optional | the tests of exported C | command -v clang"
    "gcc-arm-none-eabi | optional | microcontrollers (the tests need it in CI) | command -v arm-none-eabi-gcc"
    "libnewlib-arm-none-eabi | optional | microcontrollers (the tests need it in CI) | arm-none-eabi-gcc -print-file-name=nano.specs | grep /"
    "qemu-system-arm | optional | microcontrollers (the tests need it in CI) | command -v qemu-system-arm"
    "gcc-avr | optional | the test on an 8-bit AVR | command -v avr-gcc"
    "avr-libc | optional | the test on an 8-bit AVR | echo '#include <avr/io.h>' | avr-gcc -mmcu=atmega328p -E -"
    "chromium | optional | the test that draws the page of a study | command -v chromium"
    "simavr | optional | the test on an 8-bit AVR | command -v simavr"
)

field() { # field NUMBER ENTRY: that field of the entry, without the blanks around it
    cut -d '|' -f "$1" <<<"$2" | sed 's/^ *//; s/ *$//'
}

present() { # present ENTRY: the check may itself hold a '|', so it is the rest of the line
    bash -c "$(cut -d '|' -f 4- <<<"$1")" </dev/null >/dev/null 2>&1
}

find_missing() {
    missing=()
    local entry
    for entry in "${PACKAGES[@]}"; do
        present "$entry" || missing+=("$entry")
    done
}

as_root=()
can_install() {
    [[ -z "${POLICYPRESS_NO_APT:-}" ]] && command -v apt-get >/dev/null || return 1
    [[ "$(id -u)" == 0 ]] && return 0
    as_root=(sudo -n)
    command -v sudo >/dev/null && sudo -n true 2>/dev/null
}

install() { # install PACKAGE: says so when it fails, and goes on
    echo "Installing the Debian package $1."
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=120 "$1" </dev/null >/dev/null || echo "apt-get could not install $1." >&2
}

find_missing
((${#missing[@]})) || exit 0

if can_install; then
    echo "Updating Debian's package lists."
    "${as_root[@]}" apt-get update -qq </dev/null >/dev/null || echo "apt-get could not update its lists." >&2
    for entry in "${missing[@]}"; do
        install "$(field 1 "$entry")"
    done
    find_missing
fi

status=0
for entry in "${missing[@]}"; do
    package="$(field 1 "$entry")"
    echo "Missing ($(field 2 "$entry")): $package, for $(field 3 "$entry")." \
        "On Debian or Ubuntu: sudo apt-get install $package. Elsewhere: your system's package of the same tool." >&2
    [[ "$(field 2 "$entry")" != required ]] || status=1
done
exit "$status"
