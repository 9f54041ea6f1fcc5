"""Run in the eval server before the freeze: starts the kernel, and has it import and use what a child shall find warm."""
from jupyter import Kernel

kernel = Kernel("""
import numpy as np
import pandas as pd
import scipy
from scipy import integrate, linalg, optimize, stats
import matplotlib
%matplotlib inline
import matplotlib.pyplot as plt
""")

# What a request means here: a cell.
handle = kernel.run

WARM = [
    "1 + 1",
    "print('warm')",
    "plt.plot([1, 2]); plt.title('warm'); plt.show()",
    "import io; plt.plot([1, 2]); plt.savefig(io.BytesIO()); plt.close('all'); del io",
    "pd.DataFrame({'a': np.random.random(9), 'b': list('abcabcabc')}).groupby('b').mean()",
    "stats.norm.fit(np.random.random(9)), optimize.brentq(lambda x: x - 1, 0, 2), linalg.inv(np.eye(9)), np.fft.fft(np.eye(9)).sum()",
    "reseed()",
]

try:
    kernel.run("1 / 0")   # how an error is told is code too
except Exception:
    pass
