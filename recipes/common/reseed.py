"""New seeds for the generators of a Python process, so that the children of one snapshot draw different numbers.

forkd seeds the kernel's generator in each child before anything runs there; os.urandom, secrets and uuid need no more than that. A
generator that lives in the process was copied with its memory: these are the ones that a module keeps for all. One that a program
made itself before the freeze goes on where it stood: make it after the fork, or seed it again there."""
import os
import random
import sys


def reseed():
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy:
        # A whole state of random words, which is quicker than to spread a seed over one.
        words = numpy.frombuffer(os.urandom(4 * 624), dtype=numpy.uint32)
        numpy.random.set_state(("MT19937", words, 624))
    ssl = sys.modules.get("ssl")
    if ssl:
        ssl.RAND_add(os.urandom(48), 0.0)   # OpenSSL's other generators notice that their parent was seeded again
    uuid_utils = sys.modules.get("uuid_utils")
    if uuid_utils:
        uuid_utils.reseed_rng()   # a generator in Rust; LangChain names its runs with it
