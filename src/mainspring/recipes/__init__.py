"""Recipes that come with the package, each published one with a tiny twin, and the quickstart that uses
one."""

from mainspring.recipes.catalogue import load, load_student, names, path_of

__all__ = ["load", "load_student", "names", "path_of"]
