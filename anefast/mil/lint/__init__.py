"""Finds what a chip will refuse or misread in MIL text, offline. catalogue.py has the rules,
checks/ finds violations, fix.py rewrites, report.py prints; the command is anefast/lint.py."""

from anefast.mil.lint.catalogue import LEVELS, Rule, catalogue, rule
from anefast.mil.lint.checks import Finding, Platform
from anefast.mil.lint.engine import check_set, lint

__all__ = ["LEVELS", "Finding", "Platform", "Rule", "catalogue", "check_set", "lint", "rule"]
