# %% [markdown]
# # Figures 1 to 4: recall of each class, and what CBAM looks at
#
# Paper: *How Important Is Each Dermoscopy Image?*, sections 5.1 and 5.2. Figures 1 and 2: mean recall of each class and
# strategy with Adam (bars, whose numbers the text does not print). Figures 3 and 4: spatial attention and the strongest
# channel of the hierarchical network at its last decision, for hard classes and easy ones. Beside them the pace of SPL
# and OHEM, equation (9).
#
# Published, in words: vascular lesions and BCC are recalled well by the plain losses; ES raises the rare classes and
# costs nevus almost 10 points; SPL costs melanoma most; attention differs much between strategies.
#
# Command of the same: `python -m melano_tf.run weighting --tables 2,3 --figures 1,2,3,4,pace --out runs/weighting`
#
# Given a finished run (`python experiments/weighting_figures.py --run runs/weighting`) it trains nothing again.

# %%
import pandas as pd

from melano_tf.papers.weighting.notebook import finished, run_folder

run = run_folder()
finished(run, tables="2,3", figures="all")
for path in sorted((run / "figures").glob("*.png")):
    print(path)

# %% [markdown]
# The bars of Figures 1 and 2 as numbers, with the intervals' ends.

# %%
for number, network in ((2, "flat"), (3, "hierarchical")):
    recall = pd.read_csv(run / "tables" / f"table{number}-recall.csv")
    print(f"{network} network")
    print(recall.pivot_table(index="column", columns="row", values="ours").round(3).to_string())
    widest = (recall["high"] - recall["low"]).max()
    print(f"widest interval: {widest:.2f}")
