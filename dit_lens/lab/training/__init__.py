"""Training of the lab models: ``python -m dit_lens.lab.training --spec lab40 --out DIR``, or ``dit-lens lab train``.

    spec.py      all numbers of a recipe, and the recipes LAB, LAB40 and LAB40_NONLINEAR
    text.py      tokenizer and text encoder
    data.py      batches of fresh tasks
    fast.py      the transformer's forward, for a CPU
    optim.py     Muon and AdamW
    machine.py   single or half precision, compiled or not: chosen by timing
    growth.py    a deep model from a shallow one
    state.py     checkpoints and snapshots
    fit.py       the loop
    solved.py    solved tasks while training goes on
    pipeline.py  from weights to a diffusers pipeline in a folder
    checkpoints.py  snapshots, seeds and students as models with names
    recipe.py    the phases in order, and the command line

Nothing here is needed to load or to study a shipped model.
"""
