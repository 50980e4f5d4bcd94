# %% [markdown]
# # Table 4: the flat network with SGD
#
# Paper: *How Important Is Each Dermoscopy Image?*, section 5.1. The same grid as Table 2, with Nesterov momentum.
#
# Published: CEL Acc 78.5, BAcc 46.1; CEL-CB 70.5, 69.6; FL-OHEM 78.0, 46.1 percent (all 167 cells:
# `data_specs/published/weighting.csv`). Measured with this project: see docs/papers/weighting.md.
#
# Command of the same: `python -m melano_tf.run weighting --tables 4 --figures none --out runs/weighting`
#
# Given a finished run (`python experiments/weighting_table4.py --run runs/weighting`) it trains nothing again; what is
# missing there is trained with that run's own settings.

# %%
from melano_tf.papers.weighting.notebook import run_folder, table_of_run

run = run_folder()

# %% [markdown]
# The table as the paper prints it, ours beside it, with intervals by lesion.

# %%
table = table_of_run(run, 4)

# %% [markdown]
# What each weighting changes against the plain loss, here and in the paper. The paper finds that CB and ES buy balanced
# accuracy with accuracy.

# %%
wide = table.pivot_table(index="column", columns="row", values=["ours", "published"])
for loss in ("CEL", "FL"):
    for name in [name for name in wide.index if name.startswith(f"{loss}-")]:
        change = {
            (metric, side): wide.loc[name, (side, metric)] - wide.loc[loss, (side, metric)]
            for metric in ("Acc", "BAcc")
            for side in ("ours", "published")
        }
        print(
            f"{name:<10} BAcc {change['BAcc', 'ours']:+.3f} (paper {change['BAcc', 'published']:+.3f}), "
            f"Acc {change['Acc', 'ours']:+.3f} (paper {change['Acc', 'published']:+.3f})"
        )
