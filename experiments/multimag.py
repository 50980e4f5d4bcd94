# %% [markdown]
# # Melanoma against nevi at four magnifications: Tables 1 to 4, Figures 1 and 2
#
# Paper: *Interpretable classification from skin cancer histology slides using deep learning*. Tiles at 4x, 10x, 20x and
# 40x, two networks, and maps of what they look at.
#
# What the paper prints, what this project measured beside it, on which machine and for how long:
# `docs/papers/multimag.md`. Every printed cell: `data_specs/published/multimag.csv`; our text of the paper has lost
# most of them.
#
# `python -m melano_tf.run multimag --out runs/multimag` makes the run, on phantom slides;
# `python experiments/multimag.py --run runs/multimag` shows it: a finished run trains nothing again. Each table stands
# twice: by tile, then by slide (`table1-slides`; mean probability of a slide's tiles).

# %%
from melano_tf.papers.notebook import finished, pictures, table

run = finished("multimag")

# %% [markdown]
# ## Table 1: at which magnification are melanoma and nevi told apart best? (section 4.2.1)
#
# The paper's question in one line a network: the ROC AUC of tiles by magnification.

# %%
cells = table(run, "table1")
if cells is not None:
    auc = cells[cells["row"] == "AUC"].set_index("column")["ours"]
    for network in ("ResNet50", "Vgg19"):
        own = {name.split()[0]: value for name, value in auc.items() if name.endswith(network)}
        print(f"{network}: " + ", ".join(f"{name} {value:.4f}" for name, value in own.items()))

# %% [markdown]
# ## Table 2: one model for tiles of all magnifications (section 4.2.2)
#
# The paper's finding: ResNet50 is better than Vgg19 in every metric. Here:

# %%
cells = table(run, "table2")
if cells is not None:
    wide = cells.pivot_table(index="row", columns="column", values="ours", sort=False)
    print((wide["ResNet50"] - wide["Vgg19"]).round(4).to_string())

# %% [markdown]
# ## Table 3: from which nevus is melanoma hardest to tell? (section 4.2.3)
#
# Melanoma against intradermal, compound and junctional nevi, each alone, at 40x; from the hardest to the easiest by F1.
#
# ## Table 4: the three nevi (section 4.2.4)
#
# One softmax over the three at 40x; which is found best.

# %%
for name in ("table3", "table4"):
    cells = table(run, name)
    if cells is not None:
        f1 = cells[cells["row"] == "F1S"].sort_values("ours")
        print(f"{name}\n{f1[['column', 'ours', 'published']].to_string(index=False)}")

# %% [markdown]
# ## Figures 1 and 2: what do the networks look at, and is the map to be believed? (section 4.3)
#
# The paper judges its maps by eye. Here they are measured too: share of the map's energy on the planted cells and
# pointing game (phantoms only), beside a random map, a centre-biased one and the tissue mask, and once the network's
# weights are randomised; deletion and insertion. A map that is to be believed scores above the baselines, and loses its
# score once the weights are randomised.

# %%
pictures(run)
for path in sorted((run / "tables").glob("faithfulness-*.csv")):
    cells = table(run, path.stem)
    print(path.stem)
    print(cells.pivot_table(index="column", columns="row", values="ours", sort=False).round(3).to_string())
