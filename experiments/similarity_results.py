# %% [markdown]
# # Tables 6 to 11, Figures 6 and 7: attention transfer against the baseline
#
# Paper: similarity clustering and attention transfer on ISIC 2019. Accuracy and F1 of each class on the validation part
# (HAM and BCN together), the test of HAM and the test of BCN; nine combinations of layers against the same ResNet
# without a teacher. The paper's tables are lost in our text but for the baseline and the highest of the nine: accuracy
# 0.6794 / 0.7253, 0.649 / 0.68 and 0.516 / 0.53, and F1 of BCC, SCC and MEL.
#
# The paper divides by cluster. Clusters know nothing of lesions, so that a lesion's images fall on both sides; here the
# leak is counted, and the same networks on a partition by lesion stand in the same table.
#
# Command of the same:
# `python -m melano_tf.run similarity --tables 6,7,8,9,10,11 --figures 6,7 --transfer.combinations all`
#
# Given a finished run (`python experiments/similarity_results.py --run runs/similarity`) it trains nothing again.

# %%
import pandas as pd

from melano_tf.papers.similarity.notebook import finished, run_folder

run = run_folder()
finished(run, tables="6,7,8,9,10,11", figures="6,7")

# %% [markdown]
# What attention transfer adds to the accuracy, here and in the paper. Each network's interval is wider than that: see
# the three seeds of `similarity_seeds.py` before anything is concluded.

# %%
for number, part in ((6, "validation"), (8, "HAM test"), (10, "BCN test")):
    path = run / "tables" / f"table{number}.csv"
    if not path.exists():
        continue
    table = pd.read_csv(path)
    rows = table[table["row"] == "Acc"].set_index("column")
    paper = rows.loc["highest", "published"] - rows.loc["baseline", "published"]
    for behind in ("", ", by lesion"):
        if f"highest{behind}" in rows.index:
            ours = rows.loc[f"highest{behind}", "ours"] - rows.loc[f"baseline{behind}", "ours"]
            print(f"{part}{behind}: {ours:+.4f} here (chosen on the validation part), {paper:+.4f} in the paper")
