"""The commands, one file each: they parse, print and exit; no logic of the field is here."""
