"""Golden vectors against those of this package, of stock code or of a server: is it still the same model?"""

from cocoa.verification.verify import THRESHOLD, KindResult, Verification, verify

__all__ = ["THRESHOLD", "KindResult", "Verification", "verify"]
