"""The public name of `xplinear.checks.certificate`."""

from __future__ import annotations

from xplinear.checks.certificate import Certificate, certify

__all__ = ["Certificate", "certify"]
