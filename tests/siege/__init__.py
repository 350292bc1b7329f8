"""A siege: kills, injected faults, damaged and hostile files, and what becomes of a command.

mutate.py damages every file (seeds.py) that a command reads (readers.py). In the others, a run is
the train command on a model of a few thousand weights, in a child forked from a server that has
imported everything (server.py). How much is tried: a little in the default suite, a tenth of the
whole with `-m slow`, all of it with ANEFAST_SIEGE=full besides.
"""
