"""Policies of other frameworks: their files, opened without running what they could hide.

``formats`` is the table of them. A file is a black box, which its own runtime runs, and where ``signals`` follows its
operations to the end also a chain of layers that is known.
"""
