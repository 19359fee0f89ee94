"""The recipe of the speller, carried out by `mainspring spell train`."""
