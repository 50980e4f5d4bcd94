# %% [markdown]
# # Figure 5: similarity clusters, and what the teacher's embedding finds
#
# Paper: similarity clustering and attention transfer on ISIC 2019, section "The results of similarity clustering": 16
# clusters of each of HAM, BCN and the unnamed source, by deep clustering with a multi-similarity loss. The paper judges
# them by eye; here the agreement of successive assignments (NMI), the clusters' sizes and retrieval among images of
# other lesions stand beside the sheets.
#
# Command of the same: `python -m melano_tf.run similarity --tables none --figures 5 --out runs/similarity`
#
# Given a finished run (`python experiments/similarity_clusters.py --run runs/similarity`) it trains nothing again.

# %%
import pandas as pd

from melano_tf.papers.similarity.notebook import finished, run_folder

run = run_folder()
finished(run, figures="5")

# %% [markdown]
# How the assignments settle.

# %%
rounds = pd.read_csv(run / "history" / "teacher-rounds.csv")
for record in rounds.to_dict("records"):
    print(
        f"epoch {record['epoch']:.0f}: NMI {record['nmi']:.3f}, clusters of {record['smallest']:.0f} to "
        f"{record['largest']:.0f} images"
    )

# %% [markdown]
# Which classes the clusters of each source hold.

# %%
clusters = pd.read_csv(run / "clusters" / "clusters.csv")
for source, own in clusters.groupby("source"):
    print(source)
    print(pd.crosstab(own["cluster"], own["label"]).to_string())
