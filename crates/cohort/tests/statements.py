"""Recomputes the digests that src/statement.rs pins, from docs/protocol.md alone."""
import hashlib

G = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")


def sha(data):
    return hashlib.sha256(data).digest()


def tagged(tag, data):
    return sha(sha(tag.encode()) * 2 + data)


did = b"did:peer:2.Vz6Mk"
cohort, session, terms = b"\1" * 16, b"\2" * 16, b"\3" * 32
head = session + (2).to_bytes(4, "big") + b"\5" * 32 + b"\6" * 32
print("possession", tagged("beacon-cohort/proof-of-possession/1", cohort + len(did).to_bytes(4, "big") + did + G + terms).hex())
print("nonces", tagged("beacon-cohort/nonce-contribution/1", head + G * 4).hex())
print("partials", tagged("beacon-cohort/partial-signature/2", head + (G + bytes(33)) * 2 + b"\4" * 64).hex())
print("cohort_ack", sha(terms + G * 2 + b"bcrt1p").hex())
other = b"did:btcr2:k1q"
print("control", tagged("beacon-cohort/proof-of-control/1", cohort + len(did).to_bytes(4, "big") + did + len(other).to_bytes(4, "big") + other).hex())
