# %% [markdown]
# # Table 4: how are a biopsy's tiles put together?
#
# Paper: *An attention-based weakly supervised framework for spitzoid melanocytic lesion diagnosis in WSIs*,
# section 5.3 A. The target model with batch global max pooling (BGMP), average pooling (BGAP) and the
# attention summary (BGAS, equation 2); biopsies, mean ± std over four validation cohorts.
#
# Published: BGAS is best, ACC 0.8229 ± 0.0262 (BGMP's SPC ± 0.3953 is suspect). Measured with this project: see
# docs/papers/spitzoid.md.
#
# Command of the same: `python -m melano_tf.run spitzoid --tables 4 --figures none --out runs/spitzoid`

# %%
import pandas as pd

from melano_tf.papers.spitzoid.notebook import run_folder, table_of_run

run = run_folder()

# %%
table = table_of_run(run, 4)

# %% [markdown]
# A cohort holds few biopsies, so a table of means hides a lot: each biopsy's probability, by aggregation.

# %%
parts = []
for aggregation in ("bgmp", "bgap", "bgas"):
    for file in sorted((run / "predictions").glob(f"target-{aggregation}-cohort-*.csv")):
        parts.append(pd.read_csv(file, dtype={"slide_id": str}).assign(aggregation=aggregation))
every = pd.concat(parts)
print(
    every.pivot_table(index=["malignant", "slide_id"], columns="aggregation", values="probability").round(3).to_string()
)
