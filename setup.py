"""Packaging: `pip install .` for the tool, `pip install ".[test]"` for its tests, `".[dev]"` for its linters."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# The official stubs of TensorFlow Serving, of the version of TensorFlow; only `predict --server grpc://…` needs them.
SERVING = ["grpcio>=1.60,<2", "tensorflow-serving-api>=2.21,<2.22"]
# The atlas; its JavaScript is in the wheel.
VIEW = ["bokeh>=3.6,<4"]
CLUSTER = ["distributed>=2025.1,<2027", *VIEW]
TEST = ["pytest>=8.3,<10", "pytest-xdist>=3.6,<4", "hypothesis>=6.100,<7", "selenium>=4.20,<5", *SERVING, *CLUSTER]

setup(
    name="melano_tf",
    version="0.3.0",
    description="Keras / TensorFlow reproductions of five melanoma papers: slides, dermoscopy, tables with intervals",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    # data_specs/ stands at the top of the checkout, where people look for it, and travels inside the package.
    packages=[
        *find_packages(include=["melano_tf", "melano_tf.*"]),
        "melano_tf.data_specs",
        "melano_tf.data_specs.published",
    ],
    package_dir={
        "melano_tf": "melano_tf",
        "melano_tf.data_specs": "data_specs",
        "melano_tf.data_specs.published": "data_specs/published",
    },
    package_data={
        "melano_tf.reports": ["templates/*.j2"],
        "melano_tf.view": ["assets/*"],
        "melano_tf.data_specs": ["*.yaml"],
        "melano_tf.data_specs.published": ["*.csv"],
    },
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<3.16",
        "numpy>=2.1,<3",
        "pandas>=2.2,<4",
        "pyarrow>=17",
        "scipy>=1.13,<2",
        "scikit-learn>=1.5,<2",
        "threadpoolctl>=3.1",
        "matplotlib>=3.9,<4",
        "opencv-python-headless>=4.10,<6",
        "openslide-python>=1.4,<2",
        "openslide-bin>=4.0.0.6",
        "google-crc32c>=1.5,<2",
        "tifffile>=2024.8",
        "imagecodecs>=2024.6",
        "shapely>=2.0,<3",
        "pandera[pandas]>=0.22,<1",
        "PyYAML>=6,<7",
        "jinja2>=3.1,<4",
        "h5py>=3.11,<4",
        "ImageHash>=4.3,<5",
        "pillow>=10.3",
        "tyro>=0.9,<2",
        "tqdm>=4.66,<5",
        "tensorboard>=2.20,<3",
        "tf-keras-vis>=0.8.7,<0.9",
    ],
    extras_require={
        "serving": SERVING,
        # CUDA's libraries as wheels; the driver is the machine's.
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "view": VIEW,
        "umap": ["umap-learn>=0.5.12,<0.6"],  # a further plane for the atlas' map of images
        "test": TEST,
        # Many trainings side by side (--jobs, --gpus, --scheduler); Bokeh draws Dask's dashboard.
        "cluster": CLUSTER,
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.30,<2"],
        "mutation": [*TEST, "mutmut>=3.8,<4"],  # experiments/mutation.py
        "dev": [
            *TEST,
            "ruff>=0.15,<0.18",
            "mypy>=1.15,<3",
            "import-linter>=2.3,<3",
            "pandas-stubs",
            "types-PyYAML",
            "types-shapely",
            "types-tqdm",
            "types-defusedxml",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
