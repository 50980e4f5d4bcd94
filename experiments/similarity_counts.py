# %% [markdown]
# # Tables 1 to 3 and 5, Figure 3: what ISIC 2019 holds, and what the partition holds
#
# Paper: similarity clustering and attention transfer on ISIC 2019, sections "Datasets" and "Pre-processing". Our text
# of the paper has lost these tables; what its sentences say of them stands in `data_specs/published/similarity.csv`:
# palms/soles 398, oral/genital 59, lateral torso 54, without a site 2,631; validation 2,443, HAM test 3,844, BCN test
# 6,375. The official CSV files give the four counts of sites exactly.
#
# Command of the same: `python -m melano_tf.run similarity --tables 1,2,3,5 --figures 3 --out runs/similarity`
#
# Given a finished run (`python experiments/similarity_counts.py --run runs/similarity`) it trains nothing again.

# %%
import pandas as pd

from melano_tf.papers.similarity.notebook import finished, run_folder

run = run_folder()
finished(run, tables="1,2,3,5", figures="3")

# %% [markdown]
# Published counts that are known, and ours; they agree on ISIC 2019's own files, never on phantoms.

# %%
for number in (2, 5):
    table = pd.read_csv(run / "tables" / f"table{number}.csv")
    for record in table[table["published"].notna()].to_dict("records"):
        print(
            f"table {number}, {record['column']}: paper {record['published']:,.0f}, ours {record['ours']:,.0f}"
            if record["ours"] == record["ours"]
            else f"table {number}, {record['column']}: paper {record['published']:,.0f}, not run"
        )
