"""Two optimizers, `SGD` with momentum and `Adam`, for any clconv module. Import them, or copy them.

clconv's gradients point downhill: the cost hands `backward` the negative gradient of what it wants
small (target - prediction), so that a step adds, `data += learnRate * grad`.

`backward` leaves `momentum * grad + scale * new` in every gradient. An optimizer expects the one
of this step alone, so pass `backward(…, momentum=0.0)`, which does not even read the old gradients:

    answer = net(data)
    net.backward(target - answer, updGrad=False, momentum=0.0)
    optimizer.update()

A single layer's `backward` has momentum 0 by default, but a `Sequential`'s has 1: it adds to what
is there. Call `optimizer.zeroGradParams()` once before the step then. That is also the way to sum
several batches into one step, and the only one for a Variable that two layers share: with momentum
0 the gradient of the one would replace the other's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyopencl.array as cl_array
import pyopencl.clmath as cl_math

from clconv import Module, Variable

__all__ = ["SGD", "Adam", "Optimizer"]


class Optimizer:
    """Steps along the gradients of all parameters that a module has, a shared one once.

    A subclass defines `step(variable, grad)`, which changes `variable.data` in place. A variable
    scales by its own `learnRate` and `momRate`, and `wc` pulls it towards zero: grad - wc * data.
    One with an updater of its own keeps that, one without a gradient stays as it is.
    """

    def __init__(self, module: Module, learnRate: float) -> None:
        self.module = module
        self.learnRate = learnRate

    def zeroGradParams(self) -> None:
        """Queues filling all gradients with zeros."""
        self.module.zeroGradParams()

    def update(self) -> None:
        """Queues one step of every parameter."""
        for variable, names in self.module.getVarTable().items():
            if variable.hasUpdater or variable.grad is None:
                variable.update(self.learnRate)
                continue
            if variable.data.dtype == np.float16:
                raise TypeError(f"{names[0]} is float16, expected float32 or float64")
            grad = variable.grad
            if variable.wc:
                grad = grad.mul_add(1.0, variable.data, -float(variable.wc))
            self.step(variable, grad)
            if variable.postUpdater is not None:
                variable.postUpdater(variable)

    def rate(self, variable: Variable) -> float:
        """The learning rate of one parameter; no NumPy scalar, which might promote the arrays."""
        return float(self.learnRate * variable.learnRate)

    def step(self, variable: Variable, grad: Any) -> None:
        """Queues one step of one parameter."""
        raise NotImplementedError(f"{type(self).__name__} does not define step")


class SGD(Optimizer):
    """Gradient descent: velocity = momRate * velocity + learnRate * grad; data += velocity."""

    def __init__(self, module: Module, learnRate: float = 0.01, momRate: float = 0.9) -> None:
        super().__init__(module, learnRate)
        self.momRate = momRate
        self._velocities: dict[Variable, Any] = {}

    def step(self, variable: Variable, grad: Any) -> None:
        """Without momentum there is no velocity to keep."""
        velocity = grad * self.rate(variable)
        momentum = float(self.momRate * variable.momRate)
        if momentum:
            if variable in self._velocities:
                velocity = velocity.mul_add(1.0, self._velocities[variable], momentum)
            self._velocities[variable] = velocity
        variable.data += velocity


@dataclass
class _Moments:
    """Running means of a gradient and of its square, and how much of each is not the zero start."""

    mean: Any
    square: Any
    mean_share: float = 0.0
    square_share: float = 0.0


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, Algorithm 1); a variable's `momRate` scales beta1.

    mean and square are running means of grad and grad²; each is divided by the share of it that
    gradients make up, 1 - beta^t; data += learnRate * mean / (√square + epsilon).
    """

    def __init__(
        self,
        module: Module,
        learnRate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(module, learnRate)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self._moments: dict[Variable, _Moments] = {}

    def step(self, variable: Variable, grad: Any) -> None:
        """The shares follow betas that change in between, too."""
        if variable not in self._moments:
            zeros = cl_array.zeros_like(grad)
            self._moments[variable] = _Moments(zeros, zeros)  # replaced, never written to
        m, beta1 = self._moments[variable], float(self.beta1 * variable.momRate)
        beta2 = float(self.beta2)
        m.mean = m.mean.mul_add(beta1, grad, 1 - beta1)
        m.square = m.square.mul_add(beta2, grad * grad, 1 - beta2)
        m.mean_share = beta1 * m.mean_share + (1 - beta1)
        m.square_share = beta2 * m.square_share + (1 - beta2)
        root = cl_math.sqrt(m.square) * m.square_share**-0.5 + float(self.epsilon)
        variable.data += m.mean / root * (self.rate(variable) / m.mean_share)
