-- Who holds most in a bucket: what is listed is shown by the stake behind it, and a listing without stake costs nobody a walk.
CREATE INDEX balance_by_amount ON balance (bucket, amount, account);
