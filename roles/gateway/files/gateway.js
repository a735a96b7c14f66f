// Copyright (c) 2026, baremetal.llm contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
//
// Runs in nginx (njs >= 0.7.9: no classes, no async handlers for variables). Which key belongs to whom and which model
// is where are data in the nginx configuration; this file only asks.

import crypto from 'crypto';

const OPENING = {0x7b: true, 0x5b: true};
const CLOSING = {0x7d: true, 0x5d: true};

// Returns the SHA-256 of the bearer token in hexadecimal, or '' where there is none. The scheme's case does not matter.
function key_digest(r) {
    const given = /^bearer +([^ ]+) *$/i.exec(r.headersIn.Authorization || '');
    return given ? crypto.createHash('sha256').update(given[1]).digest('hex') : '';
}

function answer(r, status, body) {
    r.headersOut['Content-Type'] = 'application/json';
    r.return(status, JSON.stringify(body) + '\n');
}

function refuse(r, status, message, param, code) {
    answer(r, status, {error: {message: message, type: 'invalid_request_error', param: param, code: code}});
}

function refuse_method(r, allowed) {
    r.headersOut.Allow = allowed;
    refuse(r, 405, `Method ${r.method} is not allowed here; use ${allowed}.`, null, 'method_not_allowed');
}

function refuse_model(r, model) {
    refuse(r, 404, `The model ${JSON.stringify(model)} does not exist or you do not have access to it.`, 'model',
           'model_not_found');
}

// Finds the value of "model" in the outermost object without parsing what is inside: njs's JSON.parse gives up below
// 32 levels, which the JSON schema of a tool can reach. What it cannot read, the engine refuses by itself.
function outermost_model(body) {
    let depth = 0, key = '', after_colon = false, model;
    for (let i = 0; i < body.length; i++) {
        const c = body[i];
        if (c === 0x22) {
            const start = i;
            for (i = i + 1; i < body.length && body[i] !== 0x22; i++) {
                if (body[i] === 0x5c) {
                    i++;
                }
            }
            if (depth === 1) {
                const text = body.slice(start, i + 1).toString();
                if (!after_colon) {
                    key = JSON.parse(text);
                } else if (key === 'model') {
                    model = JSON.parse(text);
                }
            }
        } else if (OPENING[c]) {
            depth++;
        } else if (CLOSING[c]) {
            depth--;
        } else if (depth === 1 && c === 0x3a) {
            after_colon = true;
        } else if (depth === 1 && c === 0x2c) {
            after_colon = false;
        }
    }
    return model;
}

function requested_model(r) {
    try {
        const body = JSON.parse(r.requestText || '');
        return {valid: body !== null && typeof body === 'object' && !Array.isArray(body), model: body && body.model};
    } catch (e) {
        if (!/nested too deep/i.test(e.message)) {
            return {valid: false};
        }
    }
    try {
        return {valid: true, model: outermost_model(r.requestBuffer)};
    } catch (e) {
        return {valid: false};
    }
}

// Passes a request on to the deployment that serves the model it names.
function route(r) {
    const path = r.uri;
    r.variables.llm_route = path;
    if (r.method !== 'POST') {
        refuse_method(r, 'POST');
        return;
    }
    const request = requested_model(r);
    if (!request.valid) {
        refuse(r, 400, 'The body of the request is not a JSON object.', null, 'invalid_json');
        return;
    }
    if (typeof request.model !== 'string' || request.model === '') {
        refuse(r, 400, 'You must provide a model parameter.', 'model', 'missing_required_parameter');
        return;
    }
    const models = JSON.parse(r.variables.llm_models);
    if (!Object.prototype.hasOwnProperty.call(models, request.model)) {
        refuse_model(r, request.model.slice(0, 256));
        return;
    }
    r.variables.llm_deployment = models[request.model];
    r.internalRedirect(`@llm_${models[request.model]}${path}`);
}

function model_card(name, deployment) {
    return {id: name, object: 'model', created: 0, owned_by: deployment};
}

// Answers /v1/models and /v1/models/<name> from the configuration.
function list_models(r) {
    r.variables.llm_route = '/v1/models';
    if (r.method !== 'GET' && r.method !== 'HEAD') {
        refuse_method(r, 'GET, HEAD');
        return;
    }
    const models = JSON.parse(r.variables.llm_models);
    const name = r.uri.slice('/v1/models/'.length);
    if (name === '') {
        answer(r, 200, {object: 'list', data: Object.keys(models).map((m) => model_card(m, models[m]))});
    } else if (Object.prototype.hasOwnProperty.call(models, name)) {
        answer(r, 200, model_card(name, models[name]));
    } else {
        refuse_model(r, name.slice(0, 256));
    }
}

export default {key_digest, list_models, route};
