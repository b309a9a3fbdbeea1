"""Scores of features of any size, in as many digits as it takes: mpmath, exact sums, no rounding before the end."""

import numpy as np
from mpmath import mp, mpf

from .nce import nce as counted

DIGITS = 400


def logme(features, labels, epsilon="1e-5"):
    with mp.workdps(DIGITS):
        x = matrix(features)
        values, vectors = mp.eigsy(x.T * x)
        rounding = max(values) * mpf(10) ** (30 - DIGITS)
        directions = [d for d in range(len(values)) if values[d] > rounding]
        sigma = [values[d] for d in directions]
        count, evidences = len(labels), []
        for k in sorted(set(labels)):
            target = vectors.T * x.T * mp.matrix([int(y == k) for y in labels])
            c = [target[d] ** 2 / values[d] for d in directions]
            evidences.append(evidence(sigma, c, labels.count(k) - mp.fsum(c), count, mpf(epsilon)) / count)
        return float(mp.fsum(evidences) / len(evidences))


def evidence(sigma, c, outside, count, epsilon):
    alpha = beta = mpf(1)
    for _ in range(100):
        ratio = alpha / beta
        gamma = mp.fsum(s / (s + ratio) for s in sigma)
        mean_square = mp.fsum(s * q / (s + ratio) ** 2 for s, q in zip(sigma, c, strict=True)) + epsilon
        residual = mp.fsum((ratio / (s + ratio)) ** 2 * q for s, q in zip(sigma, c, strict=True)) + outside + epsilon
        alpha, beta = gamma / mean_square, (count - gamma) / residual
        if abs(alpha / beta - ratio) <= ratio / 1000:
            break
    log_determinant = mp.fsum(mp.log(1 + s * beta / alpha) for s in sigma)
    fit = count * mp.log(beta / (2 * mp.pi)) - beta * residual - alpha * mean_square
    return (fit - log_determinant) / 2


def hscore(features, labels, rcond=1e-5):
    """Directions of channels of variance 1 that have at most `rcond` times the largest variance are dropped."""
    with mp.workdps(DIGITS):
        x = matrix(features)
        count, channels = x.rows, x.cols
        mean = [mp.fsum(x[i, d] for i in range(count)) / count for d in range(channels)]
        spread = [mp.sqrt(mp.fsum((x[i, d] - mean[d]) ** 2 for i in range(count))) for d in range(channels)]
        varying = [d for d in range(channels) if spread[d] > abs(mean[d]) * mpf(10) ** (20 - DIGITS)]
        if not varying:
            return 0.0
        z = mp.matrix([[(x[i, d] - mean[d]) / spread[d] for d in varying] for i in range(count)])
        values, vectors = mp.eigsy(z.T * z)
        score = mpf(0)
        for k in set(labels):
            members = [i for i in range(count) if labels[i] == k]
            class_sum = mp.matrix([mp.fsum(z[i, d] for i in members) for d in range(len(varying))])
            along = vectors.T * class_sum
            kept = [d for d in range(len(varying)) if values[d] > max(values) * mpf(rcond)]
            score += mp.fsum(along[d] ** 2 / values[d] for d in kept) / len(members)
        return float(score)


def regularized_hscore(features, labels):
    with mp.workdps(DIGITS):
        x = matrix(features)
        count, channels = x.rows, x.cols
        mean = [mp.fsum(x[:, d]) / count for d in range(channels)]
        z = mp.matrix([[x[i, d] - mean[d] for d in range(channels)] for i in range(count)])
        values, vectors = mp.eigsy(z.T * z / count)
        target = mp.fsum(values) / channels
        fourth = mp.fsum(mp.fsum(z[i, d] ** 2 for d in range(channels)) ** 2 for i in range(count))
        distance = mp.fsum((value - target) ** 2 for value in values)
        noise = fourth / count**2 - mp.fsum(value**2 for value in values) / count
        equal = distance <= target**2 * mpf(10) ** (20 - DIGITS)
        shrinkage = mpf(0) if equal else min(max(noise / distance, mpf(0)), mpf(1))
        shrunk = [(1 - shrinkage) * value + shrinkage * target for value in values]
        score = mpf(0)
        for k in set(labels):
            members = [i for i in range(count) if labels[i] == k]
            along = vectors.T * mp.matrix([mp.fsum(z[i, d] for i in members) for d in range(channels)])
            kept = [d for d in range(channels) if shrunk[d] > max(shrunk) * mpf(10) ** (30 - DIGITS)]
            score += mp.fsum(along[d] ** 2 / shrunk[d] for d in kept) / len(members)
        return float((1 - shrinkage) * score / max(count - 1, 1))


def knn(features, labels, neighbors=5):
    with mp.workdps(DIGITS):
        x, right = matrix(features), mpf(0)
        for i in range(x.rows):
            others = [j for j in range(x.rows) if j != i]
            distance = {j: mp.fsum((x[i, d] - x[j, d]) ** 2 for d in range(x.cols)) for j in others}
            radius = sorted(distance.values())[:neighbors][-1]
            votes = [labels[j] for j in others if distance[j] <= radius * (1 + mpf("2e-12"))]  # squared
            winners = {k for k in votes if votes.count(k) == max(map(votes.count, votes))}
            right += mpf(labels[i] in winners) / len(winners)
        return float(right / x.rows)


def leep(logits, labels):
    with mp.workdps(DIGITS):
        theta = []
        for row in logits.tolist():
            exponential = [mp.exp(mpf(value) - mpf(max(row))) for value in row]
            theta.append([value / mp.fsum(exponential) for value in exponential])
        classes = range(len(theta[0]))
        source = [mp.fsum(row[z] for row in theta) for z in classes]
        joint = {
            k: [mp.fsum(row[z] for row, y in zip(theta, labels, strict=True) if y == k) for z in classes]
            for k in set(labels)
        }
        likelihoods = (
            mp.fsum(joint[y][z] / source[z] * row[z] for z in classes if source[z] > 0)
            for row, y in zip(theta, labels, strict=True)
        )
        return float(mp.fsum(map(mp.log, likelihoods)) / len(labels))


def nce(logits, labels):
    """Counts alone, which are exact anyhow."""
    return counted(logits.numpy(), np.array(labels))


def matrix(features):
    """Doubles as they are."""
    return mp.matrix([[mpf(value) for value in row] for row in features.tolist()])
