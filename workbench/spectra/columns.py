"""What the columns of the spectra table say: name -> meaning and unit; "(ours)" where WeightWatcher has none."""

from __future__ import annotations

COLUMNS: dict[str, str] = {
    "N": "larger dimension of the matrix; count",
    "M": "smaller dimension of the matrix; count",
    "rf": "matrices whose eigenvalues are pooled: places of a convolution's kernel, stacked experts; count",
    "Q": "N / M, aspect ratio, 1 or more; no unit",
    "num_evals": "eigenvalues lambda = sigma^2, zeros included, = M rf; count",
    "alpha": "exponent of the fitted tail, rho(lambda) ~ lambda^-alpha from xmin up; no unit; about 2 to 6 "
    "in well-trained layers",
    "D": "Kolmogorov-Smirnov distance between the tail and its fit, 0 to 1; no unit",
    "sigma": "standard error of alpha, (alpha - 1) / sqrt(tail); no unit",
    "xmin": "eigenvalue at which the tail begins; weights squared",
    "xmax": "largest eigenvalue of the fit, = spectral_norm; weights squared",
    "num_pl_spikes": "eigenvalues in the tail, lambda >= xmin; count",
    "norm": "sum of lambda, the squared Frobenius norm; weights squared",
    "log_norm": "log10 of norm",
    "spectral_norm": "lambda_max, the *square* of the matrix norm ||w||_2; weights squared",
    "log_spectral_norm": "log10 of spectral_norm",
    "lambda_max": "= spectral_norm; weights squared",
    "alpha_weighted": "alpha * log10(lambda_max), the paper's alpha-hat; depends on the scale of the weights",
    "log_alpha_norm": "log10 of the sum of lambda^alpha",
    "stable_rank": "norm / spectral_norm, 1 to M; no unit",
    "matrix_rank": "singular values above sigma_max * N * eps of float64; count",
    "rank_loss": "singular values that are not, each counted in its own matrix; count",
    "weak_rank_loss": "eigenvalues under 1e-6; count",
    "entropy": "-sum p ln p / ln(matrix_rank) with p = lambda / sum lambda, 0 to 1; no unit; 1e-10 is added to p and "
    "to the rank as in WeightWatcher; 0 for rank one (there: a number near -1)",
    "sv_max": "largest singular value; unit of the weights",
    "sv_min": "smallest singular value (of a convolution WeightWatcher gives the largest of its slices' smallest); "
    "unit of the weights",
    "alpha_hill": "alpha of the upper half of the eigenvalues (PL_Alpha_Hill, median); no unit (ours)",
    "effective_rank": "exp of -sum p ln p with p = sigma / sum sigma, 1 to M; no unit; Roy & Vetterli 2007 (ours)",
    "participation_ratio": "(sum lambda)^2 / sum lambda^2, 1 to M; no unit (ours)",
    "warning": "over-trained (alpha under 2), under-trained (above 6), or empty",
    "status": "success, or failed where there is no fit",
    "reason": "why columns are empty (ours)",
}

BULK_COLUMNS: dict[str, str] = {
    "num_spikes": "eigenvalues beyond the Marchenko-Pastur bulk and its Tracy-Widom allowance; count",
    "sigma_mp": "deviation of the noise that the bulk is fitted with, eigenvalues rescaled to mean 1; no unit",
    "mp_softrank": "bulk_max / lambda_max, 1 where there is no spike; no unit",
    "W_scale": "factor to the weights that makes the mean eigenvalue 1",
    "bulk_max": "upper edge of the bulk; weights squared",
    "bulk_min": "lower edge of the bulk; weights squared",
    "mp_problem": "empty, or why there is no fit; then WeightWatcher's numbers are the end of its grid (ours)",
    "bulk_max_median": "upper edge of the bulk whose median eigenvalue is that of the weight, which spikes do not "
    "move: the bulk that figures show; weights squared (ours)",
    "spikes_median": "eigenvalues beyond that bulk and the same allowance; count (ours)",
    "mp_doubt": "empty, or why the fit is hardly one: its edge is 1.5 times that of the median or more, or under "
    "1 / 1.5, or half of the eigenvalues lie beyond it; the numbers are WeightWatcher's (ours)",
}

RANDOM_COLUMNS: dict[str, str] = {
    "max_rand_eval": "largest eigenvalue of the weights in random order; weights squared",
    "rand_distance": "Jensen-Shannon distance between the spectrum and that of one shuffle; no unit",
    "ww_softrank": "largest eigenvalue of one shuffle / lambda_max; no unit",
    "ww_maxdist": "lambda_max - largest eigenvalue of one shuffle; weights squared",
    "rand_num_spikes": "eigenvalues of the shuffled weights beyond their bulk; count",
    "num_traps": "= rand_num_spikes, correlation traps: made by single weights that are too large; count",
    "rand_sigma_mp": "sigma_mp of the shuffled weights; no unit",
    "rand_mp_softrank": "mp_softrank of the shuffled weights; no unit",
    "rand_W_scale": "W_scale of the shuffled weights",
    "rand_bulk_max": "bulk_max of the shuffled weights; weights squared",
    "rand_bulk_min": "bulk_min of the shuffled weights; weights squared",
    "rand_mp_problem": "mp_problem of the shuffled weights (ours)",
    "rand_mp_doubt": "mp_doubt of the shuffled weights (ours)",
}

DETX_COLUMNS: dict[str, str] = {
    "detX_num": "eigenvalues from the largest down whose product, rescaled to mean 1, is about 1; count",
    "num_ERG_spikes": "= detX_num; count",
    "ERG_gap": "detX_num - num_pl_spikes; count",
    "detX_val": "the least of them; weights squared",
    "detX_val_unrescaled": "the same, rescaled to mean 1 (WeightWatcher's name says the opposite)",
}

TAIL_COLUMNS: dict[str, str] = {
    "best_fit": "of truncated_power_law, exponential, lognormal the one that fits the tail significantly (p < 0.05) "
    "better than a power law, by likelihood less parameters; an exponential also where the truncated power law, which "
    "contains it, is not significantly better than it; else power_law (ours)",
    "Lambda": "cut-off of the truncated power law; 1 / weights squared",
    "alpha_TPL": "exponent of the truncated power law; no unit (ours)",
    "R_TPL": "its log-likelihood ratio to the power law, > 0 where it fits better; nats (ours)",
    "p_TPL": "how often such a ratio comes by chance; no unit (ours)",
    "R_exponential": "log-likelihood ratio of an exponential to the power law; nats (ours)",
    "p_exponential": "how often such a ratio comes by chance; no unit (ours)",
    "R_lognormal": "log-likelihood ratio of a lognormal to the power law; nats (ours)",
    "p_lognormal": "how often such a ratio comes by chance; no unit (ours)",
}

FARMS_COLUMNS: dict[str, str] = {
    "alpha_farms": "alpha of windows of one aspect ratio, pooled (FARMS): free of the layer's shape; of a convolution "
    "always of its slices; no unit (ours)",
    "D_farms": "its Kolmogorov-Smirnov distance; no unit (ours)",
    "farms_window": "rows x columns of a window (ours)",
}

PEAK_COLUMNS: dict[str, str] = {
    "alpha_peak": "alpha of the whole matrix from near the fullest bin of log10 lambda on (PL_Alpha_Hill, peak), which "
    "AlphaPruning goes by; no unit (ours)",
    "D_peak": "its Kolmogorov-Smirnov distance; no unit (ours)",
    "xmin_peak": "eigenvalue at which that tail begins; weights squared (ours)",
}

# What `spectrum_row(..., extra=...)` adds.
EXTRAS: dict[str, dict[str, str]] = {
    "mp": BULK_COLUMNS,
    "randomize": RANDOM_COLUMNS,
    "detX": DETX_COLUMNS,
    "tails": TAIL_COLUMNS,
    "peak": PEAK_COLUMNS,
    "farms": FARMS_COLUMNS,
}
# What a button says of each, and what it is.
EXTRA_WORDS: dict[str, tuple[str, str]] = {
    "mp": ("MP bulk", "Marchenko-Pastur bulk, its edge, and spikes above it"),
    "randomize": ("shuffled", "the same weights in random order: correlation traps"),
    "detX": ("detX", "the tail in which the eigenvalues multiply to 1"),
    "tails": ("tails", "exponential, lognormal and truncated tails against the power law"),
    "peak": ("peak", "alpha from the fullest bin on, the exponent that AlphaPruning's code goes by"),
    "farms": ("FARMS", "alpha of windows of one aspect ratio: free of the shape of the layer"),
}
