"""Recurrent layers over x [steps, batch, in], one layer per operation.

Orders that differ from torch: LSTM gates are [input, forget, output, cell], GRU gates [reset, output, update]. In the
GRU the reset gate acts on the state before its product with the weights. With direction `reverse` the outputs stay in
the order of processing (the first one belongs to the last step); the backward half of `bidirectional` is put back into
the order of x. Both follow coremltools' own op tests, which run on Apple hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from quantkit.mil.table import op

# parameters are MIL's defaults: hard_sigmoid 0.2 x + 0.5, scaled_tanh 1 * tanh(1 x)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": torch.tanh,
    "relu": torch.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "sigmoid_hard": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
}


@op()
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    direction: str,
    output_sequence: bool,
    recurrent_activation: str,
    cell_activation: str,
    activation: str,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    clip: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden states [steps or 1, batch, directions * hidden], the last hidden and the last cell state."""
    functions = (recurrent_activation, cell_activation, activation)
    one = (weight_ih, weight_hh, bias, peephole)
    if direction == "bidirectional":
        back = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
        states, h, c = both_ways(x, initial_h, initial_c, (one, back), functions, clip)
    else:
        ordered = x.flip(0) if direction == "reverse" else x
        states, h, c = one_way(ordered, initial_h, initial_c, one, functions, clip)
    return (states if output_sequence else h[None]), h, c


def both_ways(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weights: Sequence[Sequence[Tensor | None]],
    functions: tuple[str, str, str],
    clip: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run both directions, each on its half of the states, and join them along the last axis."""
    (h_ahead, h_behind), (c_ahead, c_behind) = h.chunk(2, -1), c.chunk(2, -1)
    ahead = one_way(x, h_ahead, c_ahead, weights[0], functions, clip)
    behind = one_way(x.flip(0), h_behind, c_behind, weights[1], functions, clip)
    states = torch.cat([ahead[0], behind[0].flip(0)], -1)
    return states, torch.cat([ahead[1], behind[1]], -1), torch.cat([ahead[2], behind[2]], -1)


def one_way(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weights: Sequence[Tensor | None],
    functions: tuple[str, str, str],
    clip: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one direction: torch's fused layer where it computes the same, else step by step."""
    weight_ih, weight_hh, bias, peephole = weights
    assert weight_ih is not None and weight_hh is not None
    if functions == ("sigmoid", "tanh", "tanh") and clip is None and peephole is None:
        flat = [torch_order(weight_ih), torch_order(weight_hh)]
        if bias is not None:
            flat += [torch_order(bias), torch.zeros_like(bias)]
        start = (h[None].contiguous(), c[None].contiguous())
        states, last_h, last_c = torch.lstm(x, start, flat, bias is not None, 1, 0.0, False, False, False)
        return states, last_h[0], last_c[0]
    inner, cell, outer = (ACTIVATIONS[name] for name in functions)
    p_i, p_f, p_o = peephole.chunk(3) if peephole is not None else (torch.zeros(()),) * 3
    states = []
    for gates in F.linear(x, weight_ih, bias):
        i, f, o, z = (gates + F.linear(h, weight_hh)).chunk(4, -1)
        c = inner(f + c * p_f) * c + inner(i + c * p_i) * cell(z)
        c = c if clip is None else torch.clamp(c, -clip, clip)
        h = inner(o + c * p_o) * outer(c)
        states.append(h)
    return torch.stack(states), h, c


def torch_order(values: Tensor) -> Tensor:
    """Return gates [input, forget, output, cell] as torch has them: [input, forget, cell, output]."""
    i, f, o, z = values.chunk(4)
    return torch.cat([i, f, z, o])


def gru_refuses(reset_after: bool = False, input_bias: Tensor | None = None, **_: object) -> str | None:
    if reset_after or input_bias is not None:
        return (
            "reset_after and input_bias of iOS18: their documentation contradicts itself and Apple's test of it fails"
        )
    return None


@op(refuses=gru_refuses)
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    direction: str,
    output_sequence: bool,
    recurrent_activation: str,
    activation: str,
    bias: Tensor | None = None,
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the hidden states and the last one: o = act(W x + R (r * h) + b), h = (1 - z) * o + z * h."""
    inner, outer = ACTIVATIONS[recurrent_activation], ACTIVATIONS[activation]
    r_r, r_o, r_z = weight_hh.chunk(3)
    h, states = initial_h, []
    for gates in F.linear(x.flip(0) if direction == "reverse" else x, weight_ih, bias):
        w_r, w_o, w_z = gates.chunk(3, -1)
        r, z = inner(w_r + F.linear(h, r_r)), inner(w_z + F.linear(h, r_z))
        h = (1 - z) * outer(w_o + F.linear(r * h, r_o)) + z * h
        states.append(h)
    return (torch.stack(states) if output_sequence else h[None]), h


@op()
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    direction: str,
    output_sequence: bool,
    activation: str,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the hidden states and the last one: h = act(W x + b + R h)."""
    function = ACTIVATIONS[activation]
    h, states = initial_h, []
    for part in F.linear(x.flip(0) if direction == "reverse" else x, weight_ih, bias):
        h = function(part + F.linear(h, weight_hh))
        states.append(h)
    return (torch.stack(states) if output_sequence else h[None]), h
