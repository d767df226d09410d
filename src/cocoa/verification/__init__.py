"""Does whatever serves a model give the model's vectors? Golden vectors against this package, stock code or a server."""

from cocoa.verification.verify import THRESHOLD, KindResult, Verification, verify

__all__ = ["THRESHOLD", "KindResult", "Verification", "verify"]
