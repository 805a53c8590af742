"""The quick forward is the stock forward, at the sizes of both recipes."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel

from dit_lens.lab.training import fast
from dit_lens.lab.training.spec import LAB, LAB40


def model_of(spec, layers):
    torch.manual_seed(0)
    model = WanTransformer3DModel(**spec.transformer() | {"num_layers": layers})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def results(model, inputs, half):
    """Velocity and gradient, stock and quick."""
    for run in (lambda: model(*inputs, return_dict=False)[0], lambda: fast.velocity(model, *inputs, half=half)):
        model.zero_grad()
        v = run()
        (v * inputs[0][:, :16]).mean().backward()
        yield v.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


def distance(a, b):
    return ((a - b).norm() / a.norm()).item()


@pytest.mark.parametrize(("half", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(("spec", "shape"), [(LAB, (4, 12, 12)), (LAB40, (5, 7, 6))], ids=["lab", "lab40"])
def test_it_computes_what_the_stock_forward_does(spec, shape, half, tolerance):
    model = model_of(spec, 2)
    inputs = torch.randn(2, 36, *shape), torch.tensor([20.0, 960.0]), torch.randn(2, 64, 64)
    (v, g), (v_fast, g_fast) = results(model, inputs, half)
    assert distance(v, v_fast) < tolerance
    assert distance(g, g_fast) < tolerance


def test_forty_blocks_do_not_add_up_to_an_error():
    model = model_of(LAB40, 40)
    inputs = torch.randn(2, 36, 3, 5, 5), torch.tensor([300.0, 999.0]), torch.randn(2, 64, 64)
    (v, g), (v_fast, g_fast) = results(model, inputs, torch.float32)
    assert distance(v, v_fast) < 2e-5
    assert distance(g, g_fast) < 2e-5
    assert distance(v, next(results(model, (inputs[0], inputs[1] / 2, inputs[2]), torch.float32))[0]) > 1e-2
