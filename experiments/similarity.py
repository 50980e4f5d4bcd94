# %% [markdown]
# # Similarity clustering and attention transfer: Tables 1 to 11, Figures 3 to 7
#
# Paper: similarity clustering and attention transfer on ISIC 2019. Eight classes; 16 clusters of each source's images
# by deep clustering; parts by cluster; a student that learns the teacher's attention.
#
# What the paper prints, what this project measured beside it, on which machine and for how long:
# `docs/papers/similarity.md`. Our text of the paper has lost its tables; what its sentences say of them stands in
# `data_specs/published/similarity.csv`.
#
# `python -m melano_tf.run similarity --out runs/similarity` makes the run, on phantom images;
# `python experiments/similarity.py --run runs/similarity` shows it: a finished run trains nothing again.

# %%
import pandas as pd

from melano_tf.papers.notebook import finished, pictures, table

run = finished("similarity")

# %% [markdown]
# ## Tables 1 to 3 and 5, Figure 3: what the data and the partition hold
#
# Published counts that are known, and ours; they agree on ISIC 2019's own files, never on phantoms.

# %%
for name in ("table1", "table2", "table3", "table5"):
    cells = table(run, name)
    if cells is not None:
        for record in cells[cells["published"].notna()].to_dict("records"):
            ours = "not run" if pd.isna(record["ours"]) else f"ours {record['ours']:,.0f}"
            print(f"{name}, {record['column']}: paper {record['published']:,.0f}, {ours}")

# %% [markdown]
# ## Figure 5: the similarity clusters
#
# The paper judges them by eye. Here: how the assignments settle (NMI of successive ones), and which classes the
# clusters of each source hold.

# %%
for path in (run / "history").glob("teacher-rounds.csv"):
    for record in pd.read_csv(path).to_dict("records"):
        print(
            f"epoch {record['epoch']:.0f}: NMI {record['nmi']:.3f}, clusters of {record['smallest']:.0f} to "
            f"{record['largest']:.0f} images"
        )
for path in (run / "clusters").glob("clusters.csv"):
    for source, own in pd.read_csv(path).groupby("source"):
        print(f"{source}\n{pd.crosstab(own['cluster'], own['label']).to_string()}")

# %% [markdown]
# ## Tables 6 to 11, Figures 6 and 7: attention transfer against the baseline
#
# Nine combinations of layers against the same ResNet without a teacher. The paper divides by cluster: a lesion's images
# fall on both sides; that leak is counted, and the same networks on a partition by lesion stand in the same table.
#
# What attention transfer adds to the accuracy, here and in the paper. Each network's interval is wider than that: see
# the three seeds of `similarity_seeds.py` before anything is concluded.

# %%
for number, part in ((6, "validation"), (8, "HAM test"), (10, "BCN test")):
    cells = table(run, f"table{number}")
    if cells is None:
        continue
    rows = cells[cells["row"] == "Acc"].set_index("column")
    paper = rows.loc["highest", "published"] - rows.loc["baseline", "published"]
    for behind in ("", ", by lesion"):
        if f"highest{behind}" in rows.index:
            ours = rows.loc[f"highest{behind}", "ours"] - rows.loc[f"baseline{behind}", "ours"]
            print(f"{part}{behind}: {ours:+.4f} here (chosen on the validation part), {paper:+.4f} in the paper")
pictures(run)
