"""Builds the wheel (PEP 517) with the standard library alone.

With ENCLAVE_LIBRARY=libenclave.so.1 in the environment, or `--config-setting library=...`, the wheel
bundles that library, and its tag names the glibc version that it needs. Otherwise the wheel uses the
system's library.
"""

import base64
import hashlib
import os
import platform
import re
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARY = "libenclave.so.1"


def _version():
    with open(os.path.join(HERE, "enclave", "__init__.py")) as file:
        return re.search(r'^__version__ = "(.*)"', file.read(), re.MULTILINE).group(1)


def _metadata():
    return (
        "Metadata-Version: 2.1\n"
        "Name: enclave\n"
        f"Version: {_version()}\n"
        "Summary: Memory for secrets: locked, guarded, closed while nobody uses it, and wiped\n"
        "License: Apache-2.0\n"
        "Requires-Python: >=3.9\n"
        "Classifier: Operating System :: POSIX :: Linux\n"
        "Classifier: Programming Language :: Python :: Implementation :: CPython\n"
        "Classifier: Typing :: Typed\n"
    ).encode()


def _tag(library):
    if library is None:
        return "py3-none-any"
    with open(library, "rb") as file:
        needed = re.findall(rb"\bGLIBC_2\.(\d+)\b", file.read())
    return f"py3-none-manylinux_2_{max(map(int, needed))}_{platform.machine()}"


def _is_pure(tag):
    return str(tag.endswith("-any")).lower()


def _files(library):
    package = os.path.join(HERE, "enclave")
    for name in sorted(os.listdir(package)):
        if name.endswith((".py", ".typed")):
            yield f"enclave/{name}", os.path.join(package, name), 0o644
    if library is not None:
        yield f"enclave/{LIBRARY}", library, 0o755


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    library = (config_settings or {}).get("library") or os.environ.get("ENCLAVE_LIBRARY")
    tag, version = _tag(library), _version()
    name = f"enclave-{version}-{tag}.whl"
    record = []
    with zipfile.ZipFile(
        os.path.join(wheel_directory, name), "w", zipfile.ZIP_DEFLATED
    ) as wheel:

        def add(path, contents, mode=0o644):
            # No date, so that equal sources make equal wheels.
            entry = zipfile.ZipInfo(path)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100000 | mode) << 16
            wheel.writestr(entry, contents)
            digest = base64.urlsafe_b64encode(hashlib.sha256(contents).digest()).rstrip(b"=")
            record.append(f"{path},sha256={digest.decode()},{len(contents)}\n")

        for path, source, mode in _files(library):
            with open(source, "rb") as file:
                add(path, file.read(), mode)
        information = f"enclave-{version}.dist-info"
        licence = os.path.join(HERE, "..", "..", "..", "LICENSE")
        if os.path.exists(licence):
            with open(licence, "rb") as file:
                add(f"{information}/licenses/LICENSE", file.read())
        add(f"{information}/METADATA", _metadata())
        add(
            f"{information}/WHEEL",
            f"Wheel-Version: 1.0\nGenerator: enclave\nRoot-Is-Purelib: {_is_pure(tag)}\n"
            f"Tag: {tag}\n".encode(),
        )
        record.append(f"{information}/RECORD,,\n")
        entry = zipfile.ZipInfo(f"{information}/RECORD")
        entry.external_attr = 0o100644 << 16
        wheel.writestr(entry, "".join(record))
    return name
