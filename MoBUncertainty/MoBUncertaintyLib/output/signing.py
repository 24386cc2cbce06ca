"""Cryptographic signatures of exported reviews, with Ed25519: who has the key, and that nothing has changed since.

`report.sig` lies beside the record `report.json` and signs its SHA-256, which covers all of it; the record in turn
holds the SHA-256 of the export's other files. What is signed is the text

    mob-uncertainty signature
    sha256:<SHA-256 of the record's canonical JSON, see `integrity.digest_of`>

Needs the package `cryptography`, the extra `signing`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MoBUncertaintyLib.base.errors import InstallationError, ReviewError, SettingsError
from MoBUncertaintyLib.base.integrity import DIGEST, IntegrityError, digest_of
from MoBUncertaintyLib.base.json_input import SIZE_LIMIT, read_object
from MoBUncertaintyLib.output.review_export import SIGNATURE, checking, read_export

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey as SigningKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SCHEMA = "mob-uncertainty signature"
SCHEMA_VERSION = 1
ALGORITHM = "Ed25519"


@dataclass(frozen=True)
class Verified:
    """An export that is as it was written.

    Attributes:
        signed_off: Name and time of the reader's signature; None: not signed off.
        files: How many files beside the record were checked.
        fingerprint: Of the key it is signed with, as `ssh-keygen -l` shows it; None: not asked for.
        key_name: What the list of trusted keys calls it.
    """

    signed_off: str | None
    files: int
    fingerprint: str | None = None
    key_name: str = ""


def load_key(path: str | Path, passphrase: Callable[[], str]) -> SigningKey:
    """Load a private key, PEM or OpenSSH; `passphrase` is asked only for an encrypted one.

    Raises:
        SettingsError: It cannot be read, is no Ed25519 key, or the passphrase is wrong.
        InstallationError: `cryptography` is not installed.
    """
    exceptions, serialization, ed25519 = _cryptography()
    content = _read(Path(path))
    kind = "ssh" if b"OPENSSH PRIVATE KEY" in content else "pem"
    load = getattr(serialization, f"load_{kind}_private_key")
    try:
        try:
            key = load(content, None)
        except TypeError:  # it is encrypted
            key = load(content, passphrase().encode())
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"{path} cannot be used as a private key; give an {ALGORITHM} key in PEM or OpenSSH format, and its "
            "passphrase if it has one."
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SettingsError(f"{path} is not an {ALGORITHM} key; make one with: ssh-keygen -t ed25519")
    signing_key: SigningKey = key
    return signing_key


def sign_record(record: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """Make the content of `report.sig` for the sealed record of an export."""
    public = key.public_key()
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "algorithm": ALGORITHM,
        "public_key": _openssh(public),
        "fingerprint": fingerprint(public),
        "record_sha256": record[DIGEST],
        "signature": base64.b64encode(key.sign(_message(record))).decode(),
    }


def fingerprint(key: Ed25519PublicKey) -> str:
    """As `ssh-keygen -l` shows it."""
    digest = hashlib.sha256(base64.b64decode(_openssh(key).split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def read_trusted(path: str | Path) -> dict[str, str]:
    """Read trusted public keys (PEM, or lines as in OpenSSH's `authorized_keys`): name by fingerprint.

    Raises:
        SettingsError: The file cannot be read, or holds no Ed25519 key.
        InstallationError: `cryptography` is not installed.
    """
    exceptions, serialization, ed25519 = _cryptography()
    text = _read(Path(path)).decode("utf-8", "replace")
    blocks = [(block, "", serialization.load_pem_public_key) for block in _PEM.findall(text)]
    blocks += [(line["key"], line["name"].strip(), serialization.load_ssh_public_key) for line in _SSH.finditer(text)]
    trusted = {}
    for block, name, load in blocks:
        try:
            key = load(block.encode())
        except (ValueError, exceptions.UnsupportedAlgorithm) as error:
            raise SettingsError(f"{path} contains a damaged public key ({block[:30]}...); correct it.") from error
        if isinstance(key, ed25519.Ed25519PublicKey):
            trusted[fingerprint(key)] = name
    if not trusted:
        raise SettingsError(
            f"{path} contains no {ALGORITHM} public key; give a file of such keys, in PEM or OpenSSH format."
        )
    return trusted


def verify(folder: str | Path, trusted: Mapping[str, str] | None = None) -> Verified:
    """Check that an export is as it was written and, given trusted keys, that one of them has signed it.

    Raises:
        ReviewError: It is not, or is none.
        InstallationError: `cryptography` is not installed, and keys are given.
    """
    folder = Path(folder)
    with checking(folder):
        record, signed_off = read_export(folder)
        if trusted is None:
            return Verified(signed_off, len(record["files"]))
        used = _check_signature(record, read_object(folder / SIGNATURE))
    if used not in trusted:
        raise ReviewError(f"The review in {folder} is signed with the key {used}, which is not among the trusted ones.")
    return Verified(signed_off, len(record["files"]), used, trusted[used])


def _check_signature(record: Mapping[str, Any], signed: Mapping[str, Any]) -> str:
    """Check a signature, and return the fingerprint of the key it was made with, whoever's it is."""
    exceptions, serialization, ed25519 = _cryptography()
    try:
        if (signed["schema"], signed["schema_version"], signed["algorithm"]) != (SCHEMA, SCHEMA_VERSION, ALGORITHM):
            raise ValueError("another version")
        key = serialization.load_ssh_public_key(signed["public_key"].encode())
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise ValueError("another kind of key")
        key.verify(base64.b64decode(signed["signature"], validate=True), _message(record))
    except exceptions.InvalidSignature as error:
        raise IntegrityError("the signature does not belong to this record") from error
    except (KeyError, TypeError, ValueError, AttributeError, exceptions.UnsupportedAlgorithm) as error:
        raise IntegrityError(f"{SIGNATURE} is damaged") from error
    return fingerprint(key)


_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----")
_SSH = re.compile(r"^(?!\s*#).*?(?P<key>ssh-ed25519 [A-Za-z0-9+/=]+)(?P<name>.*)$", re.MULTILINE)


def _message(record: Mapping[str, Any]) -> bytes:
    return f"{SCHEMA}\nsha256:{digest_of(record)}\n".encode()


def _openssh(key: Ed25519PublicKey) -> str:
    _, serialization, _ = _cryptography()
    return str(key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SIZE_LIMIT)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); check the path.") from error


def _cryptography() -> tuple[Any, Any, Any]:
    """Import its modules `exceptions`, `serialization` and `ed25519`."""
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise InstallationError(
            "Signatures need the package cryptography; get it with: pip install 'mob-uncertainty[signing]'"
        ) from error
    return exceptions, serialization, ed25519
