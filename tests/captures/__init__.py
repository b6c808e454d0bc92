"""Pictures of what a person sees, for people to look at: every command in a terminal, every page of the
dashboard and of the gateway.

    make captures CAPTURES="--to FOLDER"

It knows the commands by click's own tree, so that a new one is in it by itself. It reports what a program
can tell: lines that are cut, tracebacks, commands that do not end. How it looks, somebody has to look at.
"""
