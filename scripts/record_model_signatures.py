"""Records signatures of a small model by the reference implementation, for tests/unit/trust/supply.

    python -m venv .peers/model-signing
    .peers/model-signing/bin/pip install model-signing==1.1.1 pyopenssl
    .peers/model-signing/bin/python scripts/record_model_signatures.py

Signs the same folder with a key on each curve and with a certificate, and writes the signatures with the public keys
and the authority. Then has the reference verify what this program signed, if a folder with `model.sig` and a public key
are named: `... record_model_signatures.py FOLDER PUBLIC.pem`.
"""

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import model_signing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VECTORS = Path(__file__).parents[1] / "tests" / "unit" / "trust" / "supply" / "model_signatures.json"
FILES = {"config.json": "{}", "model.safetensors": "weights", "sub/tokenizer.json": "words"}
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key without a password."""
    no = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no)


def certificate(subject: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None, by: object) -> object:
    """An authority (no issuer) or a signer's certificate."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    began = datetime(2026, 1, 1, tzinfo=UTC)
    build = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(issuer is not None, *[False] * 4, issuer is None, False, False, False), True)
    )
    if issuer is not None:
        names = x509.SubjectAlternativeName([x509.RFC822Name("publisher@example.com")])
        build = build.add_extension(names, critical=False)
    return build.sign(by, hashes.SHA256())


def main() -> None:
    """Write the vectors."""
    with tempfile.TemporaryDirectory() as folder:
        root, model = Path(folder), Path(folder) / "model"
        for name, text in FILES.items():
            path = model / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        cases = []
        for curve, kind in CURVES.items():
            key, pem = ec.generate_private_key(kind), root / f"{curve}.pem"
            pem.write_bytes(private_pem(key))
            signature = root / f"{curve}.sig"
            model_signing.signing.Config().use_elliptic_key_signer(private_key=pem).sign(model, signature)
            public = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            cases.append({"name": curve, "key": public.decode(), "signature": json.loads(signature.read_text())})
        authority_key, key = ec.generate_private_key(CURVES["p256"]), ec.generate_private_key(CURVES["p256"])
        authority = certificate("authority", authority_key, None, authority_key)
        leaf = certificate("publisher", key, authority, authority_key)
        for name, value in {"leaf": leaf, "authority": authority}.items():
            (root / f"{name}.pem").write_bytes(value.public_bytes(serialization.Encoding.PEM))
        (root / "key.pem").write_bytes(private_pem(key))
        signature = root / "certificate.sig"
        model_signing.signing.Config().use_certificate_signer(
            private_key=root / "key.pem",
            signing_certificate=root / "leaf.pem",
            certificate_chain=[root / "authority.pem"],
        ).sign(model, signature)
        authority_pem = (root / "authority.pem").read_text()
        cases.append(
            {"name": "certificate", "authority": authority_pem, "signature": json.loads(signature.read_text())}
        )
    VECTORS.write_text(json.dumps({"files": FILES, "cases": cases}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        where, key_file = sys.argv[1:]
        command = [sys.executable, "-m", "model_signing", "verify", "key", where, "--signature", f"{where}/model.sig"]
        subprocess.run([*command, "--public_key", key_file], check=True)  # noqa: S603 - a fixed command
    else:
        main()
