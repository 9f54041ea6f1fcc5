"""Run in the interpreter before the freeze: NumPy, and what it loads or sets up at its first use, is in the snapshot then, and not
paid for by every child."""
import numpy
import numpy as np

matrix = numpy.random.default_rng().random((64, 64)) + 64 * numpy.eye(64)
product = matrix @ numpy.linalg.inv(matrix)
numpy.linalg.svd(product)
numpy.fft.fft(product[0])
numpy.sort(numpy.random.random(1000)).sum()
str(product)
del matrix, product

WARM = ["x = np.arange(9).reshape(3, 3)", "(x @ x).tolist()", "round(np.random.rand(), 6), int(np.arange(10).sum())", "del x"]
