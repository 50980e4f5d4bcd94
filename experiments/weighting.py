# %% [markdown]
# # How important is each dermoscopy image? Tables 1 to 5, Figures 1 to 4
#
# Paper: *How Important Is Each Dermoscopy Image?* Two losses (cross-entropy and focal loss) times five weightings
# (none, class balance, effective number, self-paced learning, online hard example mining), for a flat and a
# hierarchical network, with Adam and with SGD; means over random splits by lesion of ISIC 2018 Task 3.
#
# What the paper prints, what this project measured beside it, on which machine and for how long:
# `docs/papers/weighting.md`. Every printed cell: `data_specs/published/weighting.csv`; Table 1's sum is 10,068, while
# the text says 10,015, so its cells are marked as suspect.
#
# `python -m melano_tf.run weighting --out runs/weighting` makes the run, on phantom images;
# `python experiments/weighting.py --run runs/weighting` shows it: a finished run trains nothing again.

# %%
from melano_tf.papers.notebook import finished, pictures, table

run = finished("weighting")

# %% [markdown]
# ## Table 1: images of each class (section 4.2)

# %%
cells = table(run, "table1")
if cells is not None:
    print(cells[["row", "ours", "published"]].to_string(index=False))

# %% [markdown]
# ## Tables 2 to 5: the strategies (section 5.1)
#
# What each weighting changes against the plain loss, here and in the paper. The paper finds that CB and ES buy balanced
# accuracy with accuracy.

# %%
NETWORKS = {2: "flat, Adam", 3: "hierarchical, Adam", 4: "flat, SGD", 5: "hierarchical, SGD"}
for number, network in NETWORKS.items():
    cells = table(run, f"table{number}")
    if cells is None:
        continue
    print(f"Table {number}: {network}")
    wide = cells.pivot_table(index="column", columns="row", values=["ours", "published"])
    for name in wide.index[wide.index.str.contains("-")]:
        change = wide.loc[name] - wide.loc[name.partition("-")[0]]
        words = (
            f"{metric} {change['ours', metric]:+.3f} (paper {change['published', metric]:+.3f})"
            for metric in ("BAcc", "Acc")
        )
        print(f"{name:<10} {', '.join(words)}")

# %% [markdown]
# ## Figures 1 and 2: mean recall of each class and strategy (section 5.1)
#
# Bars, whose numbers the paper does not print. In words: vascular lesions and BCC are recalled well by the plain
# losses; ES raises the rare classes and costs nevus almost 10 points; SPL costs melanoma most. Here as numbers:

# %%
for number in (2, 3):
    recall = table(run, f"table{number}-recall")
    if recall is not None:
        print(f"Figure {number - 1}: {NETWORKS[number]}")
        print(recall.pivot_table(index="column", columns="row", values="ours").round(3).to_string())
        print(f"widest interval: {(recall['high'] - recall['low']).max():.2f}")

# %% [markdown]
# ## Figures 3 and 4: what CBAM looks at (section 5.2)
#
# Spatial attention and the strongest channel of the hierarchical network at its last decision, for hard classes and
# easy ones. Beside them the pace of SPL and OHEM, equation (9).

# %%
pictures(run)
