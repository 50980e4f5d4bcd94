# %% [markdown]
# # Figure 2: what do the networks look at, and is the map to be believed?
#
# Paper: *Interpretable classification from skin cancer histology slides using deep learning* (melanoma against nevi at
# four magnifications), section 4.3. CAM and Grad-CAM (Grad-CAM++ added) of rightly and wrongly classified tiles.
#
# The paper judges its maps by eye. Here they are measured too: share of the map's energy on the planted cells and
# pointing game (phantoms only), beside a random map, a centre-biased one and the tissue mask, and once the network's
# weights are randomised; deletion and insertion curves.
#
# Command of the same: `python -m melano_tf.run multimag --steps figures,faithfulness --out runs/multimag`

# %%
import pandas as pd

from melano_tf.papers.multimag.notebook import finished, run_folder

run = run_folder()
finished(run, tables="1", figures="1,2", steps="faithfulness,figures")
figures = sorted((run / "figures").glob("*.png"))
print("\n".join(str(path) for path in figures))

# %% [markdown]
# In Jupyter the figures show here.

# %%
try:
    from IPython import get_ipython
    from IPython.display import Image, display
except ImportError:
    get_ipython = None
if get_ipython is not None and get_ipython() is not None:
    for path in figures:
        display(Image(filename=str(path)))

# %% [markdown]
# A map that is to be believed scores above the baselines, and loses its score once the weights are randomised.

# %%
for path in sorted((run / "tables").glob("faithfulness-*.csv")):
    table = pd.read_csv(path)
    print(path.stem)
    print(table.pivot_table(index="column", columns="row", values="ours", sort=False).round(3).to_string())
